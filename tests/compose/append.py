#!/usr/bin/env python3
"""Appends one trigger as a producer outside the containers does, and checks Redis's settings.

Usage: append.py PORT ID, with the port that docker-compose.yml publishes on 127.0.0.1.
"""

import json
import sys

import redis

port, trigger_id = int(sys.argv[1]), sys.argv[2]
client = redis.Redis(port=port, decode_responses=True, socket_timeout=10)
trigger = {
    "id": trigger_id,
    "to": {"email": ["compose@example.com"]},
    "campaign_id": "1709550110",
    "ExternalTrigger": {"Name": "Compose"},
}
client.xadd("volley:{default}:intake", {"trigger": json.dumps(trigger)})
for setting, wanted in (("appendonly", "yes"), ("maxmemory-policy", "noeviction")):
    if (found := client.config_get(setting)[setting]) != wanted:
        sys.exit(f"{setting} is {found}, not {wanted}")
