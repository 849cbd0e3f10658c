"""The texts of recorded data, which are fetched and not part of the repository: tests skip where there are none."""

import pytest

from roster.lm.data import fetching


def needed(name):
    """Skips the test unless the texts behind a name of recorded data are here."""
    if not fetching.is_here(name):
        pytest.skip(f"the texts of {name} are not here: `roster lm fetch {name}`, or ROSTER_DATA")
