//! A person with a wallet and a fresh machine, who follows the manual: the commands as the pages have them, against a node double
//! and real miners. What is the reader's is filled in; each such place is named here.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use openvalidators_subtensor::remote::testing::{Member, Subnet};
use tempfile::TempDir;

use crate::{
    live::{Network, await_block, ours},
    program::{CONSTANT_REWARD, Program, binary, get, models, stderr},
};

/// Much longer than anything here takes, on cores that have much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// A folder with `configs/`, as a checkout has it, and a shell in it.
struct Machine {
    folder: TempDir,
    settings: Vec<String>,
}

impl Machine {
    fn new(network: &Network) -> Self {
        let folder = tempfile::tempdir().unwrap();
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs"), folder.path().join("configs")).unwrap();
        let mut settings = vec![
            // The double in the place of testnet, and its miners on loopback.
            format!("chain.endpoint={:?}", network.node.url()),
            "dendrite.allow_private_addresses=true".to_owned(),
            format!("wallet.path={:?}", network.wallets.path()),
            format!("axon.port={}", network.axon),
            "axon.ip=\"127.0.0.1\"".to_owned(),
            "axon.external_ip=\"198.51.100.7\"".to_owned(),
            // No internet.
            "models.offline=true".to_owned(),
            // What makes a test short.
            "prompts.first_text_patience_seconds=1.0".to_owned(),
            "prompts.num_followup_steps=1".to_owned(),
            "weights.min_scored=2".to_owned(),
            "weights.set_at_fraction=0.2".to_owned(),
            "weights.same_key_guard=false".to_owned(),
            "reporting.metrics.address=\"127.0.0.1:0\"".to_owned(),
        ];
        settings.extend(CONSTANT_REWARD.map(str::to_owned));
        Self { folder, settings }
    }

    /// The command of a page that begins so, the reader's words filled in.
    fn command(page: &str, beginning: &str, filled_in: &[(&str, &str)]) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
        let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
        let line = text.lines().map(str::trim).find(|line| line.trim_matches('`').starts_with(beginning));
        let line = line.unwrap_or_else(|| panic!("docs/{page} has no `{beginning} …`"));
        let mut command = line.trim_matches('`').to_owned();
        for (from, to) in filled_in {
            assert!(command.contains(from), "docs/{page}: `{from}` is not in: {command}");
            command = command.replace(from, to);
        }
        command
    }

    fn shell(&self, text: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_openvalidators")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", text]).current_dir(self.folder.path()).env("PATH", path);
        for (name, value) in binary().get_envs() {
            assert!(value.is_none());
            shell.env_remove(name);
        }
        // Settings of the environment lie under the flags that a person types.
        for setting in &self.settings {
            let (key, value) = setting.split_once('=').unwrap();
            shell.env(format!("OPENVALIDATORS_SET__{}", key.replace('.', "__").to_uppercase()), value);
        }
        shell
    }

    fn run(&self, text: &str) -> Output {
        self.shell(text).output().unwrap()
    }

    /// As a person reads it, but for lines of JSON.
    fn validate(&self, text: &str) -> Program {
        Program::of(self.shell(&format!("exec {text} --json")))
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output))
}

const WHO: [(&str, &str); 2] = [("NAME", "cold"), ("HOTKEY", "plain")];

#[test]
fn the_manual_leads_from_a_wallet_to_weights_on_the_chain() {
    models();
    let network = Network::start(None);
    let machine = Machine::new(&network);
    let subnet = ("--netuid N", "--netuid 64");

    // 2. Is this subnet's protocol ours? The miners there answer whoever asks.
    let query = [&WHO[..], &[subnet, ("--uid 7", "--uid 1")]].concat();
    let asked = machine.run(&Machine::command("operations.md", "openvalidators query", &query));
    assert!(said(&asked).contains("answered"), "{}", said(&asked));
    // 3. The hotkey.
    let mut check = machine.shell(&Machine::command("wallets.md", "openvalidators wallet check", &WHO));
    // It needs no chain, and would ask for the netuid of one.
    let wallet = check.env_remove("OPENVALIDATORS_SET__CHAIN__ENDPOINT").output().unwrap();
    assert!(wallet.status.success() && said(&wallet).contains("A validator can sign"), "{}", said(&wallet));
    // 6. A configuration of one's own.
    let own = "cp configs/testnet.toml mine.toml\nsed -i '/^\\[chain\\]/a netuid = 64' mine.toml\n\
               printf '\\n[wallet]\\nname = \"cold\"\\nhotkey = \"plain\"\\n' >> mine.toml\n\
               openvalidators run --config mine.toml --check-config";
    let checked = machine.run(own);
    assert!(checked.status.success(), "{}", said(&checked));
    // The doctor finds what was forgotten: nobody has registered the hotkey.
    let doctor = Machine::command("README.md", "openvalidators doctor", &WHO) + " --min-free-gb 0.001";
    let found = machine.run(&doctor);
    assert_eq!(found.status.code(), Some(8), "{}", said(&found));
    assert!(said(&found).contains("btcli subnets register"), "{}", said(&found));
    let refused = machine.run("openvalidators run --config mine.toml");
    assert_eq!(refused.status.code(), Some(6), "{}", said(&refused));

    // 4. What btcli would do, with the coldkey.
    network.node.subnet(|subnet: &mut Subnet| subnet.members.push(Member::validator(ours(), 10_000)));
    await_block(&network.node);
    let found = machine.run(&doctor);
    assert!(found.status.success(), "{}", said(&found));

    // 7. An hour without weights.
    let mut program = machine.validate("openvalidators run --config mine.toml --neuron.disable_set_weights");
    let address = program.metrics_address();
    program.until("step");
    program.until("step");
    let (_, page) = get(&address, "/metrics");
    assert!(page.contains("openvalidators_dendrite_queries_total{outcome=\"answered\"}"), "{page}");
    program.terminate();
    assert!(program.finish().1.success());
    assert!(network.node.subnet(|subnet| subnet.weights_of(&ours()).is_none()));

    // 8. The real thing, by the flags of openvalidators 1.2.0.
    let url = format!("--subtensor.chain_endpoint {}", network.node.url());
    let start =
        [&WHO[..], &[subnet, ("--subtensor.network test", url.as_str()), ("--profile medium", "--profile cpu")]]
            .concat();
    let mut program =
        machine.validate(&Machine::command("operations.md", "openvalidators run --subtensor.network", &start));
    let address = program.metrics_address();
    network.until("weights were set", |subnet| subnet.weights_of(&ours()).is_some());
    network.until("our axon is served", |subnet| subnet.members.last().is_some_and(|member| member.axon.is_some()));
    // Epochs that passed before are forgotten once the weights are read back from the chain.
    let since = Instant::now();
    while get(&address, "/ready").0 != 200 {
        assert!(since.elapsed() < PATIENCE, "{}", get(&address, "/ready").1);
        std::thread::sleep(Duration::from_millis(500));
    }
    program.terminate();
    assert!(program.finish().1.success());
}
