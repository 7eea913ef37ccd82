# agent.sh - becomes the agent (qedge.runtime.agent) of a runtime that is there.
# $1 where its images lie and $2 where the runtimes do, as of `place`, $3 the runtime's name,
# $4 Python; the rest is for the agent
set -eu
place "$1"
state=$root
place "$2"
cd -P -- "$root/$3"
touch . 2>/dev/null || true # it was used now
python=$4
shift 4
# from this folder, whatever else the user has for Python
exec "$python" -E -s -m qedge.runtime.agent --root "$state" "$@"
