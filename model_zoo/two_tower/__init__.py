"""Retrieval: which of all items does a user want?"""
