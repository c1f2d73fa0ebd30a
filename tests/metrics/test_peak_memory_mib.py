from bench.contract import Undefined
from metrics.peak_memory_mib import peak_memory_mib


def test_it_is_the_records_number():
    assert peak_memory_mib(cost={"gpu_peak_mib": 12.5}).item() == 12.5


def test_a_processor_alone_has_none():
    assert peak_memory_mib(cost={"gpu_peak_mib": None}) == Undefined("measured on a GPU only")
