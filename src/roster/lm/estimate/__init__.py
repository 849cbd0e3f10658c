"""Estimators: quality, cost and delay per model for a prompt. One idea a file; any of them meets any rule."""

from roster.lm.estimate.agreement import Agreement
from roster.lm.estimate.aptitude import Aptitude
from roster.lm.estimate.base import Embedding, Estimates, Estimator
from roster.lm.estimate.boosted import Boosted
from roster.lm.estimate.chosen_knn import ChosenKNN
from roster.lm.estimate.cluster_ranks import ClusterRanks
from roster.lm.estimate.contrastive import Contrastive
from roster.lm.estimate.domains import Domains
from roster.lm.estimate.embedded_models import ModelVectors
from roster.lm.estimate.ensemble import Ensemble
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.factors import Factors
from roster.lm.estimate.irt import IRT
from roster.lm.estimate.knn import KNN
from roster.lm.estimate.label_free import Smoothie
from roster.lm.estimate.leaderboard import Leaderboard
from roster.lm.estimate.logistic import Logistic
from roster.lm.estimate.perceptron import Perceptron
from roster.lm.estimate.plain import Dice, Elo, Mean, Truth
from roster.lm.estimate.skills import Skills
from roster.lm.estimate.table import DatasetTable, KMeansTable

__all__ = [
    "IRT",
    "KNN",
    "Agreement",
    "Aptitude",
    "Boosted",
    "ChosenKNN",
    "ClusterRanks",
    "Contrastive",
    "DatasetTable",
    "Dice",
    "Domains",
    "Elo",
    "Embedding",
    "Ensemble",
    "Estimates",
    "Estimator",
    "Expense",
    "Factors",
    "KMeansTable",
    "Leaderboard",
    "Logistic",
    "Mean",
    "ModelVectors",
    "Perceptron",
    "Skills",
    "Smoothie",
    "Truth",
]
