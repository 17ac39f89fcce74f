use crate::connect::Connections;
use crate::topology::{self, Options};

/// Makes what is missing on the server again, while we run: a stream or consumer that somebody deleted.
#[derive(Clone)]
pub struct Mender {
    pub(crate) connections: Connections,
    options: Options,
}

impl Mender {
    /// Makes it as the topology says.
    pub fn new(connections: Connections, options: Options) -> Self {
        Self { connections, options }
    }

    /// Applies the topology, and has everybody read again what may be gone: the sweeper sets the timers of all leads.
    pub(crate) async fn mend(&self) {
        match topology::apply(&Connections::jetstream(&self.connections.general), self.options.clone()).await {
            Ok(applied) => {
                let made: Vec<_> =
                    applied.changes.iter().filter(|change| change.action != topology::Action::Unchanged).collect();
                tracing::warn!(?made, "something was deleted on the NATS server, and was made again");
                self.connections.count.send_modify(|count| *count += 1);
            }
            Err(error) => tracing::error!(
                error = %dripline_actors::Chain(&error),
                "something was deleted on the NATS server and cannot be made again"
            ),
        }
    }
}
