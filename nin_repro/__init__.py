"""A reproduction of Network In Network (Lin, Chen, Yan, arXiv 1312.4400)."""

import sys

# A command of this package, of which nothing else has been imported yet.
if sys.argv[:1] == ["-m"] or sys.argv[0].endswith("nin-train"):
    import importlib.util

    _missing = [name for name in ("numpy", "omegaconf", "hydra", "torch") if importlib.util.find_spec(name) is None]
    if _missing:
        print(
            f"error: {_missing[0]} is not installed for {sys.executable}: sh scripts/setup.sh && . .venv/bin/activate",
            file=sys.stderr,
        )
        sys.exit(2)
    _usual = sys.excepthook
    # Ctrl-C while modules are imported, before a command listens for it.
    sys.excepthook = lambda kind, error, trace: None if kind is KeyboardInterrupt else _usual(kind, error, trace)
