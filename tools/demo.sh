#!/bin/sh
# demo.sh IRETRACE PYTHON: record ten seconds here, or take the sample where that cannot be; replay; report.
set -eu
iretrace=$1
python=$2
mkdir -p demo
if "$iretrace" doctor >demo/doctor.txt 2>&1; then
	echo "Recording ten seconds of a mixed workload on this machine."
	"$iretrace" collect -d 10 --force -o demo/trace.parquet -- "$python" samples/workload.py 60
	trace=demo/trace.parquet
else
	echo "This machine cannot record (iretrace doctor says why); taking the recorded sample instead:"
	grep LACK demo/doctor.txt || cat demo/doctor.txt
	trace=samples/mixed.parquet
fi
echo
"$iretrace" replay "$trace"
echo
"$iretrace" report --force -o report.html "$trace"
