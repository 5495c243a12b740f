"""Instances: virtual machines of CloudStack. How they are read, inserted, deleted, switched and changed."""
