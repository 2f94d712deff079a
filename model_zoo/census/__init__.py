"""The census of 1994: who earns more than $50,000 a year?"""
