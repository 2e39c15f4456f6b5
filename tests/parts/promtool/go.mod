// promtool as Prometheus has it, to check the alerting rules and the metrics with. There is no program of ours in here:
// tests/run builds the one of the module, without service discovery (which nothing here uses, and which is most of it).
module envoy-sds.test/promtool

go 1.26.7

require github.com/prometheus/prometheus v0.316.0
