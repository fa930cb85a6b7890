"""What the controller knows of services and environments: contracts, and what is wrong where they are not kept."""
