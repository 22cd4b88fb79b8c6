"""Metrics and traces for one machine: collected, kept for a while, and asked for wherever they are.

`scrape` and `receive` collect, `store` keeps, `query` is the interface of those who ask. It has an implementation for
the store (`embedded`) and for what a larger mesh has instead (`prometheus`, `zipkin`, `jaeger`, `tempo`).
"""
