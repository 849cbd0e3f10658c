"""The protocol by which published claims are judged: declared first, run then, with a null, a control and an ablation.

Read in this order: `declaration` (what is promised), `check` (what runs), `runner` and `record` (running it, one line
per run), `verdict` (what the lines say), `page` (where it is shown).
"""
