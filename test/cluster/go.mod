module github.com/signet-mesh/signet/test/cluster

go 1.26.0
