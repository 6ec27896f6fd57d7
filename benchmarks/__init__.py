"""How fast, frugal and exact: LycoPatch, the bare-torch floor, peft and lycoris-lora on the same model and files.

``python -m benchmarks`` prints one table. ``floor`` is what everything is divided by, ``peers`` and ``ours`` are the
contenders, ``worker`` runs one of them in a process of its own, ``table`` prints. ``python -m benchmarks.library``
measures the catalog of a folder of thousands of networks.
"""
