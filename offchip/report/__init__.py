"""Pages of runs and sweeps: data, figures, assets. Called, it is :func:`offchip.report_page.report`."""

from offchip.callable_package import called_as

called_as(__name__, "offchip.report_page:report")
