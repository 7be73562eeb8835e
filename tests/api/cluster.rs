//! The book on a real Redis Cluster: while its slots move and a master dies, answers are the store's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dealrank::ranking::{Accelerator, AcceleratorHealth};
use redis::{AsyncCommands, FromRedisValue};
use tokio::sync::Mutex;

use crate::redis::{answers, until, write_somewhere};
use crate::servers::{Server, accelerator_at, free_port};
use crate::world::{World, id, now, open_deals, rng};

/// Longest wait for the cluster to agree on something.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const SLOTS: u16 = 16384;
/// How often a slot moves: each master has it, and the first one again.
const MOVES: usize = 4;
/// Of those that move.
const KEYS_AT_ONCE: usize = 4;
/// After this long without an answer a node is taken for dead.
const NODE_TIMEOUT_MS: &str = "1000";

/// `redis-server` processes that are one cluster.
pub struct Cluster {
    masters: Vec<Node>,
    replicas: Vec<Node>,
}

struct Node {
    port: u16,
    bus_port: u16,
    server: Server,
}

impl Node {
    fn start() -> Self {
        let (port, bus_port) = (free_port(), free_port());
        let folder = tempfile::tempdir().unwrap().keep();
        let command = [
            "redis-server",
            "--port",
            &port.to_string(),
            "--cluster-port",
            &bus_port.to_string(),
            "--bind",
            "127.0.0.1",
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            NODE_TIMEOUT_MS,
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            folder.to_str().unwrap(),
        ];
        let server = Server::start(&folder, &command);
        Self {
            port,
            bus_port,
            server,
        }
    }

    async fn ask<T: FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().unwrap());
        asked.arg(words.collect::<Vec<_>>());
        asked.query_async(&mut connection).await
    }

    async fn tell(&self, command: &str) {
        let () = self
            .ask(command)
            .await
            .unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    async fn id(&self) -> String {
        self.ask("CLUSTER MYID").await.unwrap()
    }

    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.server.has_ended() && Instant::now() < deadline {
            // Of a cluster of another test, perhaps, that was faster on the port.
            if let Ok(info) = self.ask::<String>("INFO server").await {
                let own = format!("process_id:{}", self.server.pid());
                return info.lines().any(|line| line == own);
            }
            tokio::time::sleep(POLL).await;
        }
        false
    }

    /// What it knows of each node, by id.
    async fn knows(&self) -> BTreeMap<String, Known> {
        let nodes: String = self.ask("CLUSTER NODES").await.unwrap();
        let known = nodes.lines().map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            // Slots on the move are in brackets, on the nodes between which they move.
            let slots = words[8..].iter().filter(|slots| !slots.starts_with('['));
            let known = Known {
                is_master: words[2].contains("master"),
                epoch: words[6].parse().unwrap(),
                slots: slots.map(ToString::to_string).collect(),
            };
            (words[0].to_owned(), known)
        });
        known.collect()
    }

    async fn describe(&self) -> String {
        let nodes = self.ask::<String>("CLUSTER NODES").await;
        let slots = self.ask::<redis::Value>("CLUSTER SLOTS").await;
        format!("{}: {nodes:#?}\n{slots:?}", self.port)
    }
}

/// What a node knows of another one, or of itself.
#[derive(Debug, PartialEq)]
struct Known {
    is_master: bool,
    /// Who has the highest is believed where two say that a slot is theirs.
    epoch: u64,
    slots: Vec<String>,
}

impl Known {
    fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&slot)
        })
    }
}

impl Cluster {
    /// Three masters, and a replica of each if wanted.
    pub async fn start(with_replicas: bool) -> Self {
        for _ in 0..20 {
            let start = |count: usize| (0..count).map(|_| Node::start()).collect::<Vec<_>>();
            let mut cluster = Self {
                masters: start(3),
                replicas: start(if with_replicas { 3 } else { 0 }),
            };
            let mut are_up = true;
            for node in cluster.masters.iter_mut().chain(&mut cluster.replicas) {
                are_up &= node.answers().await;
            }
            // Else somebody else was faster on one of the ports.
            if are_up {
                cluster.join().await;
                return cluster;
            }
        }
        panic!("no cluster would start");
    }

    async fn join(&self) {
        let share = SLOTS / 3;
        for (index, master) in (0u16..).zip(&self.masters) {
            let first = index * share;
            let last = if index == 2 {
                SLOTS - 1
            } else {
                first + share - 1
            };
            master
                .tell(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"))
                .await;
            master
                .tell(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1))
                .await;
        }
        let first = &self.masters[0];
        for node in self.nodes().skip(1) {
            let (port, bus_port) = (node.port, node.bus_port);
            first
                .tell(&format!("CLUSTER MEET 127.0.0.1 {port} {bus_port}"))
                .await;
        }
        self.agrees().await;
        for (replica, master) in self.replicas.iter().zip(&self.masters) {
            let id = master.id().await;
            replica.tell(&format!("CLUSTER REPLICATE {id}")).await;
        }
        for replica in &self.replicas {
            eventually("a replica is in step", async || {
                let info: String = replica.ask("INFO replication").await.unwrap();
                info.contains("master_link_status:up")
            })
            .await;
        }
        self.agrees().await;
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.masters.iter().chain(&self.replicas)
    }

    /// Waits until all nodes know all others and the same of them, until all slots are served, and
    /// until masters that took the same epoch have settled who gets a higher one.
    async fn agrees(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_agreed().await {
            if Instant::now() > deadline {
                panic!("the cluster does not agree:\n{}", self.describe().await);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn is_agreed(&self) -> bool {
        let known = self.masters[0].knows().await;
        let masters = known.values().filter(|known| known.is_master);
        let epochs: BTreeSet<u64> = masters.clone().map(|master| master.epoch).collect();
        let mut is_agreed = known.len() == self.nodes().count() && epochs.len() == masters.count();
        for node in self.nodes() {
            let info: String = node.ask("CLUSTER INFO").await.unwrap();
            is_agreed &= info.contains("cluster_state:ok") && node.knows().await == known;
        }
        is_agreed
    }

    /// What each node that answers knows of all.
    async fn describe(&self) -> String {
        let mut described = Vec::new();
        for node in self.nodes() {
            described.push(node.describe().await);
        }
        described.join("\n")
    }

    /// All masters as one address.
    pub fn url(&self) -> String {
        let addresses = self
            .masters
            .iter()
            .map(|node| format!("redis://127.0.0.1:{}", node.port));
        addresses.collect::<Vec<_>>().join(",")
    }

    fn accelerator(&self) -> Accelerator {
        accelerator_at(&self.url())
    }

    /// The slot of a store's rankings.
    async fn slot(&self, world: &World) -> u16 {
        let store = world.book.store().id();
        let slot = format!("CLUSTER KEYSLOT dealrank:{{{store}}}:pointer");
        self.masters[0].ask(&slot).await.unwrap()
    }

    /// Who owns a slot; all agree.
    async fn owner(&self, slot: u16) -> usize {
        let known = self.masters[0].knows().await;
        let owner = known.iter().find(|(_, known)| known.owns(slot));
        let (owner, _) = owner.expect("all slots have an owner");
        for (index, node) in self.nodes().enumerate() {
            if node.id().await == *owner {
                return index;
            }
        }
        panic!("a stranger owns slot {slot}:\n{}", self.describe().await);
    }

    fn node(&self, index: usize) -> &Node {
        self.nodes().nth(index).unwrap()
    }

    /// Moves a slot to another master, as `redis-cli --cluster reshard` does, a few keys at a time;
    /// something else happens `meanwhile`, before and after each time.
    async fn move_slot(&self, slot: u16, to: usize, meanwhile: impl AsyncFn()) {
        let (source, target) = (self.node(self.owner(slot).await), self.node(to));
        let (source_id, target_id) = (source.id().await, target.id().await);
        target
            .tell(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}"))
            .await;
        source
            .tell(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}"))
            .await;
        loop {
            meanwhile().await;
            let keys = format!("CLUSTER GETKEYSINSLOT {slot} {KEYS_AT_ONCE}");
            let keys: Vec<String> = source.ask(&keys).await.unwrap();
            if keys.is_empty() {
                break;
            }
            let client = redis::Client::open(format!("redis://127.0.0.1:{}", source.port));
            let mut connection =
                (client.unwrap().get_multiplexed_async_connection().await).unwrap();
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(target.port).arg("").arg(0);
            migrate.arg(5000).arg("KEYS").arg(&keys);
            migrate.exec_async(&mut connection).await.unwrap();
        }
        // The target first, which takes a higher epoch for it. Then everybody, and nothing else until
        // all know of it: a node that had missed it would choose an epoch for the next move that is
        // taken, and while that is settled all may forget whose the slot is.
        for node in [target, source].into_iter().chain(&self.masters) {
            node.tell(&format!("CLUSTER SETSLOT {slot} NODE {target_id}"))
                .await;
        }
        self.agrees().await;
    }
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_right_while_slots_move() {
    let cluster = Cluster::start(false).await;
    let world = World::new(cluster.accelerator()).await;
    let twin = World::new(Accelerator::none()).await;
    for world in [&world, &twin] {
        world.activate(0).await;
        world.book.import(open_deals(41, 60), now()).await.unwrap();
    }
    until(&world, AcceleratorHealth::Up).await;
    let slot = cluster.slot(&world).await;
    let rng = Mutex::new(rng(42));
    let compare = async || {
        write_somewhere(&[&world, &twin], &mut *rng.lock().await).await;
        assert_eq!(answers(&world).await, answers(&twin).await);
    };
    for _ in 0..MOVES {
        let to = (cluster.owner(slot).await + 1) % cluster.masters.len();
        cluster.move_slot(slot, to, &compare).await;
        compare().await;
    }
    until(&world, AcceleratorHealth::Up).await;
    assert_eq!(answers(&world).await, answers(&twin).await);
    assert_eq!(world.book.health().await.is_redis_cluster, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_dies_is_replaced_and_no_answer_is_wrong() {
    let mut cluster = Cluster::start(true).await;
    let world = World::new(cluster.accelerator()).await;
    let twin = World::new(Accelerator::none()).await;
    for world in [&world, &twin] {
        world.activate(0).await;
        world.book.import(open_deals(43, 60), now()).await.unwrap();
    }
    until(&world, AcceleratorHealth::Up).await;
    let slot = cluster.slot(&world).await;
    let owner = cluster.owner(slot).await;
    cluster.masters[owner].server.kill();
    let killed_at = Instant::now();
    let mut rng = rng(44);
    let mut writes = 0;
    loop {
        write_somewhere(&[&world, &twin], &mut rng).await;
        writes += 1;
        assert_eq!(answers(&world).await, answers(&twin).await);
        let health = world.book.health().await;
        if health.redis_outages > 0 && health.redis == AcceleratorHealth::Up {
            break;
        }
        assert!(killed_at.elapsed() < PATIENCE, "the cluster did not mend");
    }
    println!(
        "a master of the cluster was killed: {writes} writes answered meanwhile, rankings read from redis again after {:.1} s",
        killed_at.elapsed().as_secs_f64()
    );
    for _ in 0..10 {
        write_somewhere(&[&world, &twin], &mut rng).await;
        assert_eq!(answers(&world).await, answers(&twin).await);
    }
    assert_eq!(world.book.health().await.redis, AcceleratorHealth::Up);
}

#[tokio::test]
async fn scores_are_spread_and_an_erased_one_is_gone() {
    let cluster = Cluster::start(false).await;
    let world = World::new(cluster.accelerator()).await;
    world.activate(0).await;
    world.book.import(open_deals(45, 40), now()).await.unwrap();
    for number in 0..40 {
        let id = id(&format!("d{number:05}"));
        assert_eq!(
            world.book.score(&id).await.unwrap(),
            world.book.deal(&id).await.unwrap().score
        );
    }
    let mut of_nodes = Vec::new();
    for node in &cluster.masters {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", node.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let scores: Vec<String> = connection.keys("dealrank:*:score:*").await.unwrap();
        of_nodes.push(scores.len());
    }
    assert_eq!(of_nodes.iter().sum::<usize>(), 40);
    assert!(of_nodes.iter().all(|count| *count > 0), "{of_nodes:?}");
    world.book.erase(&id("d00007")).await.unwrap();
    for node in &cluster.masters {
        let left: Vec<String> = node.ask("KEYS *score:d00007").await.unwrap();
        assert_eq!(left, Vec::<String>::new());
    }
}
