"""Where the next config comes from: named sets of points, and what became of each.

Read ``spaces`` (which points).
"""
