"""Where trials run: the campaign that hands them out, Ray Tune, and an in-process executor.

The only package that imports ray.
"""
