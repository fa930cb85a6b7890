"""Real servers for the examples' tests: PostgreSQL, Redis and the services themselves, thrown away afterwards."""
