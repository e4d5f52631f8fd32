"""`python -m benchmarks.mutation`: known defects, planted one at a time; which test catches each?"""
