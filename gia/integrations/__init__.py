"""gia inside other libraries. Each module is for one of them, and needs it only when it is called.

`gia.integrations.flower` is for Flower (flwr), `gia.integrations.opacus` for opacus.
"""
