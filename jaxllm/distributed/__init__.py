"""Devices in, shardings out: the mesh, rules by parameter path, many processes."""
