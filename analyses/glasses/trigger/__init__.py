"""Models that learn the trigger task, by how attention may weigh, and what is measured of them."""
