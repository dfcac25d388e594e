#!/usr/bin/env bash
# One Apache Kafka broker (KRaft: broker and controller in one process) on loopback, from Maven Central jars.
#   kafka.sh fetch              download the jars once (needs mvn)
#   kafka.sh start [DIR]        start with its data in DIR (default .cache/kafka-data); prints host:port when it answers
#   kafka.sh stop  [DIR]        controlled shutdown; the data stays, a later start goes on with it
#   KAFKA_LIBS=DIR says where the jars are (default .cache/kafka-libs)
#   KAFKA_PORT=9092 fixes the port; without it, a first start takes free ones and keeps them in DIR.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="$here/../../.cache"
libs="${KAFKA_LIBS:-$cache/kafka-libs}"
data="${2:-$cache/kafka-data}"
java="${JAVA_HOME:+$JAVA_HOME/bin/}java"
options=(-Xms256m -Xmx512m -XX:+UseSerialGC -Djava.awt.headless=true "-Dkafka.logs.dir=$data/logs"
         "-Dlog4j2.configurationFile=file:$data/log4j2.properties")

fetch() {
  mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$libs"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

configure() {
  mkdir -p "$data/logs"
  local port="${KAFKA_PORT:-$(free_port)}" controller
  controller="$(free_port)"
  echo "$port" > "$data/port"
  cat > "$data/server.properties" <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$data/kraft
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.check.interval.ms=1000
P
  cat > "$data/log4j2.properties" <<'P'
status = warn
appender.c.type = Console
appender.c.name = C
appender.c.layout.type = PatternLayout
appender.c.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.c.ref = C
P
  local id
  id="$("$java" "${options[@]}" -cp "$libs/*" kafka.tools.StorageTool random-uuid)"
  "$java" "${options[@]}" -cp "$libs/*" kafka.tools.StorageTool format -t "$id" -c "$data/server.properties" > "$data/logs/format.log"
}

start() {
  compgen -G "$libs/kafka_*.jar" > /dev/null || fetch >&2
  [ -f "$data/kraft/meta.properties" ] || configure
  local port
  port="$(cat "$data/port")"
  # setsid: a Ctrl-C in the caller's terminal is not the broker's
  setsid "$java" "${options[@]}" -cp "$libs/*" kafka.Kafka "$data/server.properties" > "$data/logs/broker.log" 2>&1 < /dev/null &
  echo $! > "$data/pid"
  for _ in $(seq 1 300); do
    kill -0 "$(cat "$data/pid")" 2> /dev/null || { tail -30 "$data/logs/broker.log" >&2; exit 1; }
    if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then echo "127.0.0.1:$port"; return; fi
    sleep 0.1
  done
  echo "kafka did not answer within 30 s; see $data/logs/broker.log" >&2
  exit 1
}

stop() {
  local pid
  pid="$(cat "$data/pid")"
  kill -TERM "$pid" 2> /dev/null || return 0
  while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
}

case "${1:-}" in
  fetch) fetch ;;
  start) start ;;
  stop) stop ;;
  *) sed -n '2,7p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
