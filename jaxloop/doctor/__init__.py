"""Whether a machine is fit: every check of packages, devices, folders, cores and memory, in at most a minute."""
