"""What every routed transformers model shares, whether adapters or feed-forward blocks are routed in it.

Read `plan.py` (what a recipe hands over), then `model.py` (what a transformers model becomes).
"""
