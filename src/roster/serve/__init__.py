"""Serving a routed mixture of adapters from one process, as OpenAI's API; read `engine.py` first.

- ``jobs``: what is asked of the engine, and what comes back;
- ``joining``: KV caches of several prompts as one;
- ``batch``: rows that step together, each with its own adapters;
- ``engine``: the thread that admits rows, steps them, and lets them go;
- ``sampling``, ``writing``: from logits to tokens, from tokens to text;
- ``mixture``: the model as the server sees it: names, limits, prompts;
- ``app``, ``answers``, ``page.html``: the HTTP face; what it shares with the gateway is in `roster.gateway`.
"""
