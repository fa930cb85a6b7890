"""The users service: people, kept in PostgreSQL and read through a cache."""
