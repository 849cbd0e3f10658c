"""`auto`, the router of the house: it knows adapters by example prompts and decides once per prompt.

- ``examples`` of the library's cards go in; ``written`` ones where there are none but descriptions;
- ``features``: what is read of a prompt; ``wordings``: which examples are worded alike;
- ``classes``: nearest centred means, and what cross-validation says of them;
- ``choosing``: which layer, pooling and classifier; when to abstain; when two adapters share;
- ``judge``: the part of the model that holds all this and decides;
- ``duels``: which of several adapters with the same examples is the best;
- ``explain``: why a prompt went where it went.

The recipe is `roster.recipes.auto`, docs/auto.md the guide.
"""
