"""The reference shop: one domain, written as most teams first write it and as it has to be written for the
peak.
"""
