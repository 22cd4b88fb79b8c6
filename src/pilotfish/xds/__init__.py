"""Serving Envoy: streams, subscriptions, what each proxy holds, acknowledgements and refusals.

Only bytes pass here: a resource is compiled and serialised once, elsewhere, and joined into responses as it is.
"""
