"""Boards and pictures made by hand, written as pages: what the tests open in a browser."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bench.leaderboard import write
from bench.record import Claim, Record, RowName, Store
from bench.report.site import write_site
from tests.right.making import boards_of, measured, noise, reading, record

Made = tuple[Record, Mapping[str, np.ndarray]]

MARKUP = "<script>window.hacked=1</script>"
BREAKOUT = '"><img src=x onerror=window.hacked=1>'
ERROR = "<b onclick=window.hacked=1>no memory</b> </script>" + MARKUP
SHARED = 0.1 * noise(0, 2, 40)  # two seeds, 40 images, drawn alike for all methods: leads are certain
PSNR = {"good": 100.5, "fine": 9.5, "bad": 20.25}  # as text, 100.5 < 20.25 < 9.5
LATER = "reconstruction_mlp.digits.sgd_layer3_bad_default_1"  # in the store run again, after the boards were made
LAYERS, NETWORKS = ("layer2", "layer3"), ("cnn.digits.sgd", "mlp.digits.sgd")


def reconstruction() -> list[Made]:
    """Three methods on two networks and two layers, real images beside them, and one that always fails."""
    made = []
    for place, (subject, condition) in enumerate((s, c) for s in NETWORKS for c in LAYERS):
        for step, method in enumerate(("bad", "fine", "good")):
            cells = measured(method, 0.3 + 0.2 * step + SHARED, subject=subject, condition=condition)
            for one, values in cells:
                other = reading(PSNR[method] + place, metric="psnr", unit="db", decimals=2)
                readings = one.readings if method == "fine" and place == 0 else (*one.readings, other)
                cost = one.cost.model_copy(update={"wall_s": 10.0**step, "backward_passes": 10 ** (step + 1)})
                made.append((one.model_copy(update={"readings": readings, "cost": cost}), values))
        made += measured("real_images", 0.9 + SHARED, subject=subject, condition=condition, is_reference=True)
        made.append((record("broken", status="oom", error=ERROR, subject=subject, condition=condition), {}))
    return made


def attribution() -> list[Made]:
    """Two explainers of networks of two training methods, with their insertion curves."""
    card = {"metric": "insertion_auc", "stem": "insertion_auc"}
    pairs = [(subject, method) for subject in ("cnn.digits.sgd", "cnn.digits.bort") for method in ("gradient", "gini")]
    made = []
    for place, (subject, method) in enumerate(pairs):
        values = 0.3 + 0.1 * place + SHARED
        for one, found in measured(method, values, track="attribution", condition="", subject=subject, card=card):
            others = [reading(10.0 * place + number, metric=f"extra_{number}") for number in range(4)]
            curve = list(np.linspace(0.1, 0.5 + 0.1 * place, 11))
            changes = {"readings": (*one.readings, *others), "notes": {"curves": {"insertion_auc": curve}}}
            made.append((one.model_copy(update=changes), found))
    return made


def hostile() -> list[Made]:
    """Names and texts that a careless page would run, where contributors choose them."""
    names = {"variant": BREAKOUT, "condition": "</script>" + MARKUP, "subject": "<svg/onload=window.hacked=1>"}
    said = {"settings": {MARKUP: BREAKOUT}, "provenance": {"started_utc": "2026-09-01T00:00:00Z", "host": MARKUP}}
    made = [*measured(MARKUP, 0.5 + SHARED, **names, **said), *measured("plain", 0.3 + SHARED, **names, **said)]
    made.append((record("failed", status="failed", error=ERROR, **names), {}))
    return [(one.model_copy(update={"key": f"hostile{place}"}), values) for place, (one, values) in enumerate(made)]


def claims() -> list[Claim]:
    """One that holds and one that fails."""
    good, bad = (
        RowName(subject="cnn.digits.sgd", condition="layer3", method=method, variant="default")
        for method in ("good", "bad")
    )
    common = {"track": "reconstruction", "metrics": ("ssim",), "source": "Someone 2024, arXiv:2401.00001"}
    return [
        Claim(claim="Good beats bad.", pairs=((good, bad),), **common),
        Claim(claim="Bad beats good.", pairs=((bad, good),), **common),
    ]


def many(rows: int) -> list[Made]:
    """As many rows of one track, in groups of twenty."""
    values = noise(1, rows, 3)
    return [
        (
            record(
                f"method_{place % 20}",
                subject=f"network_{place // 20 % 10}.digits.sgd",
                condition=f"layer{place // 200}",
                readings=[reading(float(row[0])), reading(float(row[1]), metric="psnr"), reading(metric="rmse")],
            ),
            {},
        )
        for place, row in enumerate(values)
    ]


def write_toys(folder: Path) -> Path:
    """The pages of the boards ``toy``, ``hostile``; returns the first."""
    ours = [*reconstruction(), *attribution()]
    theirs = hostile()
    store = Store.create(folder / "store")
    for one, values in [*ours, *theirs]:
        staged = store.stage(one.key)
        _paint(staged / "artifacts" / "contact_sheet.png", seed=one.identity.seed)
        store.commit(_run_again(one) if one.key == LATER else one, values, staged)
    primary = {"primary": {"reconstruction": "ssim", "attribution": "insertion_auc"}}
    write(boards_of(ours, claims=claims(), **primary), folder / "boards" / "toy")
    write(boards_of(theirs), folder / "boards" / "hostile")
    return write_site([folder / "boards" / name for name in ("toy", "hostile")], folder / "site", store=store)


def write_many(folder: Path, rows: int) -> Path:
    """The page of one large board."""
    write(boards_of(many(rows), intervals=False), folder / "boards" / "large")
    write_site([folder / "boards" / "large"], folder / "site")
    return folder / "site" / "large.html"


def _run_again(one: Record) -> Record:
    """A record whose method made something else."""
    return one.model_copy(update={"provenance": one.provenance | {"artifact_sha256": "00ff"}})


def _paint(path: Path, *, seed: int) -> None:
    path.parent.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 200, 3), dtype=np.uint8)).save(path)
