"""Sentences of any length: is it praise?"""
