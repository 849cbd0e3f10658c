"""The old place of `roster.shelf.card`."""

from roster.shelf.card import CARD as CARD
from roster.shelf.card import Card as Card
