use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use serde_json::{Value, json};

use super::out;
use crate::access::{Kind, NAME_CHARS_MAX, Role, Secret};
use crate::app::{now, open_store};
use crate::config::{Config, ConfigArgs};
use crate::error::{Error, Result};
use crate::store::{AccessKey, Store};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// JSON in place of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the keys (the default); the keys themselves are kept nowhere
    List,
    /// Make a key and print it, this once
    Create {
        /// Whose it is, or what it is for; no two keys have the same
        #[arg(long)]
        name: String,
        /// `manager` may do everything, `rep` sees one owner's queue and deals, `api` is for programs
        #[arg(long, value_enum)]
        role: RoleName,
        /// The owner whose queue and deals a rep sees, written as in the deals
        #[arg(long, required_if_eq("role", "rep"))]
        owner: Option<String>,
    },
    /// Refuse a key from now on, and end its sessions; a running service within 5 seconds
    Revoke { name: String },
    /// Print a link that signs in once, for whoever is to have it
    Link {
        name: String,
        /// Where people reach the service, if not where the settings say
        #[arg(long, value_name = "URL")]
        base_url: Option<Url>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RoleName {
    Manager,
    Rep,
    Api,
}

pub fn run(args: Args) -> Result<()> {
    super::runtime()?.block_on(args.run())
}

impl Args {
    async fn run(self) -> Result<()> {
        let config = self.settings.load()?;
        let store = open_store(&config).await?;
        match self.action.unwrap_or(Action::List) {
            Action::List => out(&list(&store.keys().await?, self.json)),
            Action::Create { name, role, owner } => {
                let (name, role) = (checked_name(&name)?, checked_role(role, owner)?);
                let key = Secret::random(Kind::Key);
                store.create_key(&name, &role, &key.hash(), now()).await?;
                out(&created(&name, &role, &key, self.json))
            }
            Action::Revoke { name } => {
                store.revoke_key(&name).await?;
                out(&match self.json {
                    true => format!("{}\n", json!({ "revoked": name })),
                    false => format!("revoked {name}\n"),
                })
            }
            Action::Link { name, base_url } => {
                let base_url = base_url.map_or_else(|| base_url_of(&config), Ok)?;
                let (link, until) = link(&store, &config, &name, base_url).await?;
                out(&match self.json {
                    true => format!("{}\n", json!({ "link": link, "expires_at": until })),
                    false => format!("{link}\n"),
                })
            }
        }
    }
}

fn checked_name(name: &str) -> Result<String> {
    let name = name.trim();
    let length = name.chars().count();
    if length == 0 || length > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let reason = format!("must be 1 to {NAME_CHARS_MAX} characters, none of control");
        return Err(Error::invalid("name", reason));
    }
    Ok(name.to_owned())
}

fn checked_role(role: RoleName, owner: Option<String>) -> Result<Role> {
    let owner = owner.map(|owner| owner.trim().to_owned());
    match (role, owner) {
        (RoleName::Manager, None) => Ok(Role::Manager),
        (RoleName::Api, None) => Ok(Role::Api),
        (RoleName::Rep, Some(owner)) if !owner.is_empty() => Ok(Role::Rep { owner }),
        (RoleName::Rep, _) => Err(Error::invalid("owner", "is required of a rep")),
        (_, Some(_)) => Err(Error::invalid("owner", "only reps have one")),
    }
}

/// The key alone goes to standard output, for pipes; what to do with it is for people.
fn created(name: &str, role: &Role, key: &Secret, is_json: bool) -> String {
    let key = key.reveal();
    if is_json {
        let owner = role.owner();
        let document = json!({ "name": name, "role": role.as_str(), "owner": owner, "key": key });
        return format!("{document}\n");
    }
    let how = match role {
        Role::Api => "send it as `Authorization: Bearer KEY`".to_owned(),
        _ => format!("sign in with it at /sign-in, or send a link: dealrank keys link '{name}'"),
    };
    eprintln!("this key is shown once and kept nowhere; {how}");
    format!("{key}\n")
}

async fn link(
    store: &Store,
    config: &Config,
    name: &str,
    mut base_url: Url,
) -> Result<(String, Timestamp)> {
    let key = store.key_named(name).await?;
    if key.holder.role == Role::Api {
        let reason = format!("the key `{name}` is for programs: there is nothing to sign in to");
        return Err(Error::Conflict(reason));
    }
    let link = Secret::random(Kind::Link);
    let lasts = SignedDuration::from_mins(i64::from(config.access.link_minutes));
    let until = now().saturating_add(lasts).unwrap_or(Timestamp::MAX);
    store
        .create_link(&link.hash(), &key.holder.key_id, until)
        .await?;
    if let Ok(mut path) = base_url.path_segments_mut() {
        path.pop_if_empty().push("sign-in");
    }
    base_url
        .query_pairs_mut()
        .clear()
        .append_pair("link", &link.reveal());
    Ok((base_url.into(), until))
}

/// Where people reach the service, as far as the settings say.
fn base_url_of(config: &Config) -> Result<Url> {
    let base = match &config.webhooks.public_base_url {
        Some(base) => base.clone(),
        None => super::healthcheck::base_url(&config.listen),
    };
    Url::parse(&base).map_err(|e| Error::Malformed(format!("--base-url is needed: {base}: {e}")))
}

fn document(key: &AccessKey) -> Value {
    let holder = &key.holder;
    json!({
        "name": holder.name,
        "role": holder.role.as_str(),
        "owner": holder.role.owner(),
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
    })
}

fn list(keys: &[AccessKey], is_json: bool) -> String {
    if is_json {
        let documents: Vec<Value> = keys.iter().map(document).collect();
        return format!("{}\n", json!(documents));
    }
    if keys.is_empty() {
        eprintln!("there are no keys yet: make one with `dealrank keys create`");
    }
    let line = |key: &AccessKey| {
        let (name, role) = (&key.holder.name, key.holder.role.as_str());
        let owner = match key.holder.role.owner() {
            Some(owner) => format!(" of {owner}"),
            None => String::new(),
        };
        let created = key.created_at.strftime("%Y-%m-%d");
        let used = match key.last_used_at {
            Some(at) => format!("last used {}", at.strftime("%Y-%m-%d")),
            None => "never used".into(),
        };
        format!("{name}  {role}{owner}  created {created}, {used}\n")
    };
    keys.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_of_reps() {
        let owner = || Some(" Ada ".to_owned());
        let rep = checked_role(RoleName::Rep, owner()).unwrap();
        assert_eq!(rep.owner(), Some("Ada"));
        assert!(checked_role(RoleName::Rep, None).is_err());
        assert!(checked_role(RoleName::Rep, Some("  ".into())).is_err());
        assert!(checked_role(RoleName::Manager, owner()).is_err());
        assert!(checked_role(RoleName::Api, owner()).is_err());
        assert!(checked_name(" \n").is_err() && checked_name("a\u{7}").is_err());
    }
}
