"""What Celery calls: explicit names, bodies of a line or two. A task's
message is a hint and carries no delivery.
"""
