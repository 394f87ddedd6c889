#!/bin/bash
# Runs in the image's build stage, without network: the wheels become /opt/dask.
set -euo pipefail
python3 -m venv --without-pip /opt/dask
installer=(/installer/pip-*.whl)
/opt/dask/bin/python "${installer[0]}/pip" install --quiet --no-index --no-compile --no-deps --require-hashes --find-links /wheels --requirement /requirements.txt

# what a running cluster never reads
cd /opt/dask/lib/python3*/site-packages
find . -type d \( -name tests -o -name docs -o -name examples \) -not -path './numpy/_core/tests' -prune -exec rm -rf {} +
find . \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.a' \) -type f -delete
rm -rf pyarrow/include pyarrow/src

python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/dask/lib
# the files that were left out are not missed
/opt/dask/bin/python -c '
import dask.array, dask.bag, dask.dataframe, dask.delayed, dask.distributed, dask.diagnostics
import bokeh, joblib, lz4.frame, numpy.testing, pandas.testing, prometheus_client, pyarrow.parquet, scipy.stats, scipy.optimize
import sklearn.cluster, sklearn.datasets, sklearn.ensemble, sklearn.linear_model, sklearn.model_selection
import distributed.http.scheduler.prometheus, distributed.dashboard.scheduler
'
