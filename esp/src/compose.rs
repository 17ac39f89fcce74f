//! Renders emails from a sequence's templates.
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use dripline_actors::ports::{ComposeError, Composer};
use dripline_domain::{Address, Email, Lead, LeadId, Profile, Sequence, SmolStr, split_mailbox};
use minijinja::value::{Object, Serde, Value};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value as Json};

use crate::{Recipient, UnsubscribeLinks};

/// Work one rendering may do, in the engine's units: an instruction, or 64 bytes. Ends a template's endless loop.
const FUEL: u64 = 1_000_000;

/// What templates call the link to unsubscribe.
const UNSUBSCRIBE_URL: &str = "unsubscribe_url";

const NO_LINKS: &str = "no link to unsubscribe can be made; set unsubscribe.base_url and unsubscribe.keys";

/// Longest body, in bytes. Gmail cuts off what is longer than 102 kB.
const BODY_LIMIT: usize = 1024 * 1024;

/// Longest subject, in bytes: a header line's limit (RFC 5322 §2.1.1).
const SUBJECT_LIMIT: usize = 998;

/// Width of a text part derived from HTML, in columns. Links may be longer.
const TEXT_WIDTH: usize = 72;

/// Renders with minijinja, a Jinja dialect: <https://docs.rs/minijinja/latest/minijinja/syntax/index.html>.
///
/// A template sees `firstName`, `lastName`, `email`, `phone`, `attributes` (every further field of the lead),
/// `lead_id`, `sequence`, `step` and `unsubscribe_url`; and each attribute by its own name too, where that name is free.
/// What the lead does not have, or has as `null`, is undefined, and an undefined value is an error wherever it is used: an
/// email that reads "Hello ," is not sent. Templates say what they want instead: `{{ firstName | default("there") }}`,
/// or `{% if company is defined %}`.
///
/// Unless its sequence is transactional, an email has a link to unsubscribe: `unsubscribe_url` in its templates, and the
/// headers for one click (RFC 8058 §3.1).
///
/// Values are escaped in `.html` templates, and nowhere else. A step without a `.txt` gets a text part derived from its
/// HTML.
///
/// A sequence's version is compiled once and kept: it is immutable.
#[derive(Debug)]
pub struct MinijinjaComposer {
    links: Option<UnsubscribeLinks>,
    compiled: RwLock<HashMap<SmolStr, HashMap<u32, Arc<Compiled>>>>,
}

impl MinijinjaComposer {
    /// With nothing compiled yet. Without `links`, only emails of transactional sequences are rendered.
    pub fn new(links: Option<UnsubscribeLinks>) -> Self {
        Self { links, compiled: RwLock::default() }
    }

    fn compiled(&self, sequence: &Sequence) -> Result<Arc<Compiled>, ComposeError> {
        let known = self.compiled.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = known.get(&sequence.name).and_then(|versions| versions.get(&sequence.version)) {
            return Ok(compiled.clone());
        }
        drop(known);
        let compiled = Arc::new(Compiled::new(sequence).map_err(|faults| ComposeError(faults.join("; ")))?);
        let mut known = self.compiled.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(sequence.name.clone()).or_default().insert(sequence.version, compiled.clone());
        Ok(compiled)
    }
}

impl Composer for MinijinjaComposer {
    fn compose(
        &self,
        sequence: &Arc<Sequence>,
        step: usize,
        lead: &Lead,
        send_key: SmolStr,
    ) -> Result<Email, ComposeError> {
        let compiled = self.compiled(sequence)?;
        let (Some(names), Some(to_send)) = (compiled.steps.get(step), sequence.steps.get(step)) else {
            return Err(ComposeError(format!("the sequence `{}` has no step {step}", sequence.name)));
        };
        let unsubscribe_url = if sequence.transactional {
            None
        } else {
            let recipient = Recipient { address: lead.address.clone(), send_key: send_key.clone() };
            let links = self.links.as_ref().ok_or_else(|| ComposeError(NO_LINKS.to_owned()))?;
            Some(links.url(&recipient).map_err(|error| ComposeError(error.to_string()))?)
        };
        let context = Value::from_object(Visible {
            sequence: Arc::clone(sequence),
            step,
            lead_id: lead.lead_id.clone(),
            address: lead.address.clone(),
            profile: Arc::clone(&lead.profile),
            unsubscribe_url: unsubscribe_url.clone(),
        });
        let render = |name: &String| compiled.render(name, &context);

        let subject = checked_subject(&names.subject, &render(&names.subject)?)?;
        let html = names.html.as_ref().map(render).transpose()?;
        let text = match (&names.text, &html) {
            (Some(name), _) => render(name)?,
            (None, Some(html)) => derived_text(html)?,
            (None, None) => return Err(ComposeError(format!("the template `{}` is empty", to_send.send.template))),
        };
        Ok(Email {
            from: sequence.from.clone(),
            to: lead.address.clone(),
            reply_to: sequence.reply_to.clone(),
            subject,
            html,
            text,
            headers: unsubscribe_url.map(|url| one_click(&url)).unwrap_or_default(),
            message_id: ["<", &send_key, "@", &compiled.from_domain, ">"].concat(),
            send_key,
            lead_id: (&lead.lead_id).into(),
            sequence: sequence.name.clone(),
            version: sequence.version,
            step: to_send.id.clone(),
        })
    }
}

/// Compiles every subject and template, and renders none. Gives what is wrong, each with its place, such as
/// `welcome.html:3: unexpected end of input`; nothing when all is well.
pub fn check_sequence(sequence: &Sequence) -> Vec<String> {
    match Compiled::new(sequence) {
        Ok(compiled) => compiled.wrong_links(sequence.transactional),
        Err(faults) => faults,
    }
}

/// The headers by which a mail program unsubscribes (RFC 2369 §3.2, RFC 8058 §3.1).
fn one_click(url: &str) -> Vec<(&'static str, String)> {
    vec![
        ("List-Unsubscribe", ["<", url, ">"].concat()),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()),
    ]
}

/// One version of one sequence, ready to render.
#[derive(Debug)]
struct Compiled {
    environment: Environment<'static>,
    /// In the sequence's order.
    steps: Vec<Names>,
    from_domain: String,
}

/// What a step's parts are called in the environment, and in complaints.
#[derive(Debug)]
struct Names {
    subject: String,
    html: Option<String>,
    text: Option<String>,
}

impl Compiled {
    /// # Errors
    /// Everything wrong with it, never an empty list.
    fn new(sequence: &Sequence) -> Result<Self, Vec<String>> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        // Costs nothing until a rendering fails, and then names the variable.
        environment.set_debug(true);

        let mut faults = Vec::new();
        let mut add = |name: String, source: &str| {
            if let Err(error) = environment.add_template_owned(name.clone(), source.to_owned()) {
                faults.push(complaint(&name, &error));
            }
            name
        };
        for (name, template) in &sequence.templates {
            if let Some(html) = &template.html {
                add(html_name(name), html);
            }
            if let Some(text) = &template.text {
                add(text_name(name), text);
            }
        }
        let steps = sequence.steps.iter().enumerate().map(|(at, step)| {
            let template = sequence.templates.get(&step.send.template);
            Names {
                subject: add(format!("steps[{at}].subject"), &step.send.subject),
                html: template.and_then(|template| template.html.as_ref()).map(|_| html_name(&step.send.template)),
                text: template.and_then(|template| template.text.as_ref()).map(|_| text_name(&step.send.template)),
            }
        });
        let steps = steps.collect();
        let from = split_mailbox(&sequence.from);
        if from.is_none() || sequence.from.contains(char::is_control) {
            faults.push(format!("from: `{}` is not a mailbox", sequence.from.escape_debug()));
        }
        match from {
            Some((_, from)) if faults.is_empty() => {
                Ok(Self { environment, steps, from_domain: from.domain().to_owned() })
            }
            _ => Err(faults),
        }
    }

    /// A complaint about each body that shows no link to unsubscribe and should, or, where `transactional`, uses one and
    /// has none.
    fn wrong_links(&self, transactional: bool) -> Vec<String> {
        let bodies: BTreeSet<&String> = self.steps.iter().flat_map(|step| step.html.iter().chain(&step.text)).collect();
        let shows_link = |name: &str| {
            let template = self.environment.get_template(name);
            template.is_ok_and(|template| template.undeclared_variables(false).contains(UNSUBSCRIBE_URL))
        };
        let complaint = |name: &String| {
            if transactional {
                format!(
                    "{name}: uses {UNSUBSCRIBE_URL}, which a transactional sequence does not have; take it out, or take \
                     `transactional = true` out of sequence.toml"
                )
            } else {
                format!(
                    "{name}: shows no link to unsubscribe; write {{{{ {UNSUBSCRIBE_URL} }}}} where it belongs, or \
                     `transactional = true` in sequence.toml if these emails are part of a service the person uses"
                )
            }
        };
        bodies.into_iter().filter(|name| shows_link(name) == transactional).map(complaint).collect()
    }

    fn render(&self, name: &str, context: &Value) -> Result<String, ComposeError> {
        let template = self.environment.get_template(name).map_err(|error| ComposeError(complaint(name, &error)))?;
        let rendered = template.render(context).map_err(|error| ComposeError(complaint(name, &error)))?;
        if rendered.len() > BODY_LIMIT {
            return Err(ComposeError(format!("{name}: rendered to more than {BODY_LIMIT} bytes")));
        }
        Ok(rendered)
    }
}

/// By this ending the engine knows what to escape.
fn html_name(template: &str) -> String {
    format!("{template}.html")
}

fn text_name(template: &str) -> String {
    format!("{template}.txt")
}

/// What templates see: made into their values when they ask for it.
#[derive(Debug)]
struct Visible {
    sequence: Arc<Sequence>,
    /// Counted from 0.
    step: usize,
    lead_id: LeadId,
    address: Address,
    profile: Arc<Profile>,
    unsubscribe_url: Option<String>,
}

impl Object for Visible {
    fn get_value(self: &Arc<Self>, name: &Value) -> Option<Value> {
        self.get_value_by_str(name.as_str()?)
    }

    /// An attribute cannot take a name of ours, even where the lead has no such value.
    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        let profile = &self.profile;
        match name {
            "firstName" => profile.first_name.as_deref().map(Value::from),
            "lastName" => profile.last_name.as_deref().map(Value::from),
            "phone" => profile.phone.as_deref().map(Value::from),
            "email" => Some(self.address.as_str().into()),
            "attributes" => Some(Value::from_pairs(fields(&profile.attributes))),
            "lead_id" => Some(self.lead_id.as_str().into()),
            "sequence" => Some(self.sequence.name.as_str().into()),
            "step" => self.sequence.steps.get(self.step).map(|step| step.id.as_str().into()),
            // A configured URL and Base64: nothing to escape, and a provider that rewrites links knows it for one.
            UNSUBSCRIBE_URL => self.unsubscribe_url.clone().map(Value::from_safe_string),
            attribute => profile.attributes.get(attribute).filter(|value| !value.is_null()).map(template_value),
        }
    }
}

/// The fields of an object, without those that are `null`, which would be printed as "None".
fn fields(object: &Map<String, Json>) -> impl Iterator<Item = (&str, Value)> {
    object.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), template_value(value)))
}

fn template_value(json: &Json) -> Value {
    match json {
        Json::Object(object) => Value::from_pairs(fields(object)),
        Json::Array(items) => items.iter().map(template_value).collect(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => Serde(json).into(),
    }
}

/// ``welcome.html:3: `firstName` is undefined``
fn complaint(name: &str, error: &minijinja::Error) -> String {
    let place = error.line().map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"));
    let told = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let hint =
        if error.kind() == ErrorKind::UndefinedError { "; give it a `default`, or ask `is defined` first" } else { "" };
    format!("{place}: {told}{hint}")
}

/// A second line in a subject would be a header of the attacker's choice.
fn checked_subject(name: &str, rendered: &str) -> Result<String, ComposeError> {
    let subject = rendered.trim();
    let fault = if subject.is_empty() {
        "is empty"
    } else if subject.contains(char::is_control) {
        "holds a line break or another control character"
    } else if subject.len() > SUBJECT_LIMIT {
        "is too long"
    } else {
        return Ok(subject.to_owned());
    };
    Err(ComposeError(format!("{name}: {fault} once rendered")))
}

fn derived_text(html: &str) -> Result<String, ComposeError> {
    html2text::config::plain()
        .raw_mode(true)
        .no_link_wrapping()
        .allow_width_overflow()
        .string_from_read(html.as_bytes(), TEXT_WIDTH)
        .map_err(|error| ComposeError(format!("no text can be derived from the HTML: {error}")))
}
