"""glassbench: how well can one look inside this network, and with which method?"""

__version__ = "0.1.0"
