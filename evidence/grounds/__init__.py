"""Grounds that checks share: text, clusters, tasks. A pair shares what comes of one seed; all else comes of another."""
