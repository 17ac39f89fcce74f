use anyhow::Result;

use crate::{NatsServer, free_port, until};

/// Several servers that keep everything together, each with a store of its own; killed when dropped.
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts so many, with an fsync before each ack; ready once JetStream answers. One server is no cluster, but may
    /// stand in for one.
    pub async fn start(size: usize) -> Result<Self> {
        if size == 1 {
            return Ok(Self { servers: vec![NatsServer::start().await?] });
        }
        let ports = (0..size).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let routes: Vec<_> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let routes = routes.join(", ");
        let mut servers = Vec::with_capacity(size);
        for (index, port) in ports.iter().enumerate() {
            let cluster = format!("cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n");
            let mut server = NatsServer::new(format!("test-{index}"), cluster)?;
            server.spawn()?;
            servers.push(server);
        }
        let cluster = Self { servers };
        for server in &cluster.servers {
            server.until_reached().await?;
        }
        cluster.until_ready().await?;
        Ok(cluster)
    }

    /// Ends one at once, as a crash does.
    pub async fn kill(&mut self, index: usize) -> Result<()> {
        self.servers[index].kill().await
    }

    /// Starts one again, with the store it had. Whether the cluster has a majority then is another question.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        self.servers[index].restart().await
    }

    /// Waits until JetStream answers through every server: there is a leader, and each of them knows it.
    pub async fn until_ready(&self) -> Result<()> {
        for server in &self.servers {
            let client = async_nats::connect(server.url()).await?;
            let context = async_nats::jetstream::new(client);
            until("JetStream answers", async || context.query_account().await.is_ok()).await?;
        }
        Ok(())
    }

    /// One of them.
    pub fn server(&self, index: usize) -> &NatsServer {
        &self.servers[index]
    }

    /// All of them.
    pub fn servers(&self) -> &[NatsServer] {
        &self.servers
    }

    /// The process of one, while it runs.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.servers[index].pid()
    }

    /// The processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().filter_map(NatsServer::pid).collect()
    }

    /// For dripline: all of them, separated by commas.
    pub fn url(&self) -> String {
        self.urls().join(",")
    }

    /// For clients that take a list.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use async_nats::jetstream;

    use super::*;

    #[tokio::test]
    async fn what_two_of_three_acknowledged_is_there_after_one_has_died() {
        let mut cluster = NatsCluster::start(3).await.unwrap();
        let context = jetstream::new(async_nats::connect(cluster.urls()).await.unwrap());
        let config = jetstream::stream::Config { name: "S".into(), num_replicas: 3, ..Default::default() };
        context.create_stream(config).await.unwrap();
        context.publish("S", "one".into()).await.unwrap().await.unwrap();
        for index in 0..3 {
            cluster.kill(index).await.unwrap();
            until("a majority still takes messages", async || match context.publish("S", "more".into()).await {
                Ok(ack) => ack.await.is_ok(),
                Err(_) => false,
            })
            .await
            .unwrap();
            cluster.restart(index).await.unwrap();
        }
        cluster.until_ready().await.unwrap();
        let first = context.get_stream("S").await.unwrap().get_raw_message(1).await.unwrap();
        assert_eq!(first.payload, "one");
    }
}
