"""Mutation runs: do the tests notice when a line of a guard is changed? ``./dev mutants PACKAGE`` starts one."""
