"""The Bookinfo application: the services of Istio's sample, with the same REST interface."""
