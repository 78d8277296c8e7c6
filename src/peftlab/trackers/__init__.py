"""Where else runs are shown: one file for each tracker."""
