"""What Volley achieves, beside its peers and the raw floors.

``python -m benchmarks``, from the project's folder; it is no part of what is installed.
"""
