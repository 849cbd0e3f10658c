"""Mixture: routed experts attached to a transformers model. Start reading at `model.py`, then `attach.py`."""
