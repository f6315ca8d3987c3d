"""The same work done in the ways that a team would do it with Celery alone, each as well as it can be done.

    usual      one Celery task for each trigger: SET NX, POST, HSET
    grouping   triggers grouped in the worker, one POST for each group

Both keep to three requests in flight by the worker's concurrency, which holds for one worker only.
"""
