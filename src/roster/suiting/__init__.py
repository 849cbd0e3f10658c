"""Suiting: which experts suit some examples? By the base's hidden states, by loss, or by answering them (K-shot)."""
