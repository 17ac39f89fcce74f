use std::collections::BTreeMap;
use std::time::Duration;

use smol_str::SmolStr;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mailbox::{parse_mailbox, write_mailbox};
use super::{Reentry, Send, Sequence, SequenceError, Step, Template};
use crate::arrival::{excerpt, is_name};
use crate::parse_duration;

const MAX_STEPS: usize = 1000;

/// Five years, with a leap day. A longer wait is a slip of the pen.
const MAX_WAIT_DAYS: u64 = 1826;
const MAX_WAIT: Duration = Duration::from_hours(MAX_WAIT_DAYS * 24);

/// Reads and validates a sequence file. `template` is asked once for each template the steps name, and only by names
/// that are safe in a path; it gives what stands in the folder under that name, none when there is neither `.html` nor
/// `.txt`. What the templates and subjects say is not looked at.
///
/// # Errors
/// Every fault found, in the order of the file, with its place; never an empty list.
pub fn parse_sequence(
    file: &str,
    toml: &str,
    mut template: impl FnMut(&str) -> Option<Template>,
) -> Result<Sequence, Vec<SequenceError>> {
    let mut reader = Reader { faults: Vec::new(), lookup: &mut template, templates: BTreeMap::new() };
    let sequence = match DeTable::parse(toml) {
        Ok(document) => reader.sequence(document.get_ref()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reader.fault(at, "TOML", error.message().replace('\n', ", "))
        }
    };
    match sequence {
        Some(sequence) if reader.faults.is_empty() => Ok(sequence),
        _ => Err(reader.into_errors(file, toml)),
    }
}

/// Reads on after a fault, so that one look at the list mends them all. What it cannot read is none, and has a fault.
struct Reader<'l> {
    faults: Vec<Fault>,
    lookup: &'l mut dyn FnMut(&str) -> Option<Template>,
    /// Every template asked for; none where there is none.
    templates: BTreeMap<String, Option<Template>>,
}

struct Fault {
    /// The byte of the file.
    at: usize,
    field: String,
    message: String,
}

/// A value and its place in the file.
struct Node<'t> {
    value: &'t DeValue<'t>,
    path: String,
    at: usize,
}

/// A table whose keys are known to be expected ones.
struct Table<'t> {
    fields: &'t DeTable<'t>,
    path: String,
    at: usize,
}

impl Table<'_> {
    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'t> Table<'t> {
    fn get(&self, key: &str) -> Option<Node<'t>> {
        self.fields.get(key).map(|value| Node::of(value, self.path_of(key)))
    }
}

impl<'t> Node<'t> {
    fn of(value: &'t Spanned<DeValue<'t>>, path: String) -> Self {
        Self { value: value.get_ref(), path, at: value.span().start }
    }
}

impl Reader<'_> {
    fn sequence(&mut self, document: &DeTable<'_>) -> Option<Sequence> {
        let keys = ["name", "version", "from", "reply_to", "reentry", "transactional", "steps"];
        let table = self.known(document, String::new(), 0, &keys);

        // All are read before any is needed: each may have faults of its own.
        let name = self.required(&table, "name", "name = \"new_lead_nurture\"").and_then(|node| self.name(&node));
        let version = self.required(&table, "version", "version = 1").and_then(|node| self.version(&node));
        let from = self.required(&table, "from", "from = \"Acme <hello@acme.example>\"");
        let from = from.and_then(|node| self.mailbox(&node));
        let reply_to = table.get("reply_to").and_then(|node| self.mailbox(&node));
        let reentry = table.get("reentry").and_then(|node| self.reentry(&node)).unwrap_or_default();
        let transactional = table.get("transactional").and_then(|node| self.boolean(&node)).unwrap_or_default();
        let steps = self.required(&table, "steps", "[[steps]]").and_then(|node| self.steps(&node));

        let templates = std::mem::take(&mut self.templates);
        let templates = templates.into_iter().filter_map(|(name, template)| Some((name, template?))).collect();
        Some(Sequence {
            name: name?.into(),
            version: version?,
            from: from?.into(),
            reply_to: reply_to.map(SmolStr::from),
            reentry,
            transactional,
            steps: steps?,
            templates,
        })
    }

    fn steps(&mut self, node: &Node<'_>) -> Option<Vec<Step>> {
        let DeValue::Array(items) = node.value else {
            return self.wrong_type(node, "[[steps]] in double brackets");
        };
        if items.is_empty() {
            return self.fault(node.at, &node.path, "a sequence has at least one step; write [[steps]]");
        }
        if items.len() > MAX_STEPS {
            let message = format!("{} steps; a sequence has at most {MAX_STEPS}", items.len());
            return self.fault(node.at, &node.path, message);
        }
        let mut seen = BTreeMap::new();
        let steps: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(i, item)| self.step(&Node::of(item, format!("{}[{i}]", node.path)), &mut seen))
            .collect();
        steps.into_iter().collect()
    }

    /// `seen` holds the ids of the steps before this one, with their paths.
    fn step(&mut self, node: &Node<'_>, seen: &mut BTreeMap<String, String>) -> Option<Step> {
        let table = self.table(node, "a table", &["id", "after", "send"])?;
        let id = self.required(&table, "id", "id = \"welcome\"").and_then(|id_node| {
            let id = self.name(&id_node)?;
            match seen.insert(id.clone(), node.path.clone()) {
                Some(other) => self.fault(id_node.at, &id_node.path, format!("`{id}` is the id of {other} already")),
                None => Some(id),
            }
        });
        let after = table.get("after").map_or(Some(Duration::ZERO), |node| self.wait(&node));
        let send = self.required(&table, "send", "send = { subject = \"Welcome\", template = \"welcome\" }");
        let send = send.and_then(|node| self.send(&node));
        Some(Step { id: id?.into(), after: after?, send: send? })
    }

    fn send(&mut self, node: &Node<'_>) -> Option<Send> {
        let what = "{ subject = \"Welcome\", template = \"welcome\" }";
        let table = self.table(node, what, &["subject", "template"])?;
        let subject = self.required(&table, "subject", "subject = \"Welcome\"").and_then(|node| self.subject(&node));
        let template =
            self.required(&table, "template", "template = \"welcome\"").and_then(|node| self.template(&node));
        Some(Send { subject: subject?, template: template? })
    }

    fn subject(&mut self, node: &Node<'_>) -> Option<String> {
        let text = self.text(node)?;
        if text.trim().is_empty() {
            return self.fault(node.at, &node.path, "empty; an email needs a subject");
        }
        if text.contains(char::is_control) {
            return self.fault(node.at, &node.path, "holds a line end or another control character; write one line");
        }
        Some(text.to_owned())
    }

    fn template(&mut self, node: &Node<'_>) -> Option<String> {
        let name = self.name(node)?;
        let found = self.templates.entry(name.clone()).or_insert_with_key(|name| {
            (self.lookup)(name).filter(|template| template.html.is_some() || template.text.is_some())
        });
        if found.is_none() {
            let message =
                format!("there is no `{name}.html` and no `{name}.txt`; a template needs one of them, or both");
            return self.fault(node.at, &node.path, message);
        }
        Some(name)
    }

    fn reentry(&mut self, node: &Node<'_>) -> Option<Reentry> {
        const WHAT: &str = "\"ignore\", \"restart\" or { after = \"90d\" }";
        match node.value {
            DeValue::String(word) if word == "ignore" => Some(Reentry::Ignore),
            DeValue::String(word) if word == "restart" => Some(Reentry::Restart),
            DeValue::String(word) => self.fault(node.at, &node.path, format!("`{}`: expected {WHAT}", excerpt(word))),
            _ => {
                let table = self.table(node, WHAT, &["after"])?;
                let after = self.required(&table, "after", "after = \"90d\"")?;
                self.wait(&after).map(Reentry::After)
            }
        }
    }

    fn boolean(&mut self, node: &Node<'_>) -> Option<bool> {
        match node.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type(node, "true or false"),
        }
    }

    fn wait(&mut self, node: &Node<'_>) -> Option<Duration> {
        let text = self.text(node)?;
        match parse_duration(text) {
            Ok(wait) if wait <= MAX_WAIT => Some(wait),
            Ok(_) => {
                let message = format!("`{}` is over five years; write at most \"{MAX_WAIT_DAYS}d\"", excerpt(text));
                self.fault(node.at, &node.path, message)
            }
            Err(message) => self.fault(node.at, &node.path, message),
        }
    }

    fn version(&mut self, node: &Node<'_>) -> Option<u32> {
        let DeValue::Integer(number) = node.value else {
            return self.wrong_type(node, "a whole number, such as 1");
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(version) if version > 0 => Some(version),
            _ => self.fault(
                node.at,
                &node.path,
                format!("{}: versions go from 1 to {}", excerpt(number.as_str()), u32::MAX),
            ),
        }
    }

    fn mailbox(&mut self, node: &Node<'_>) -> Option<String> {
        match parse_mailbox(self.text(node)?) {
            Ok((name, address)) => Some(write_mailbox(name.as_deref(), &address)),
            Err(message) => self.fault(node.at, &node.path, message),
        }
    }

    fn name(&mut self, node: &Node<'_>) -> Option<String> {
        let text = self.text(node)?;
        if !is_name(text) {
            let message = format!("`{}`: a name has 1 to 64 of the characters a-z, 0-9, _ and -", excerpt(text));
            return self.fault(node.at, &node.path, message);
        }
        Some(text.to_owned())
    }

    fn text<'t>(&mut self, node: &Node<'t>) -> Option<&'t str> {
        match node.value {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type(node, "a text in quotes"),
        }
    }

    fn table<'t>(&mut self, node: &Node<'t>, what: &str, keys: &[&str]) -> Option<Table<'t>> {
        match node.value {
            DeValue::Table(fields) => Some(self.known(fields, node.path.clone(), node.at, keys)),
            _ => self.wrong_type(node, what),
        }
    }

    /// The table, after a fault for each key that is none of `keys`.
    fn known<'t>(&mut self, fields: &'t DeTable<'t>, path: String, at: usize, keys: &[&str]) -> Table<'t> {
        let table = Table { fields, path, at };
        for key in fields.keys() {
            let name: &str = key.get_ref();
            if !keys.contains(&name) {
                let name = excerpt(name);
                let message = format!("unknown key `{name}`, expected one of: {}", keys.join(", "));
                let _: Option<()> = self.fault(key.span().start, table.path_of(&name), message);
            }
        }
        table
    }

    fn required<'t>(&mut self, table: &Table<'t>, key: &str, example: &str) -> Option<Node<'t>> {
        table.get(key).or_else(|| self.fault(table.at, table.path_of(key), format!("missing; write {example}")))
    }

    fn wrong_type<T>(&mut self, node: &Node<'_>, what: &str) -> Option<T> {
        let message = format!("expected {what}, found {}", kind(node.value));
        self.fault(node.at, &node.path, message)
    }

    /// Always none, for the caller to hand on.
    fn fault<T>(&mut self, at: usize, field: impl Into<String>, message: impl Into<String>) -> Option<T> {
        self.faults.push(Fault { at, field: field.into(), message: message.into() });
        None
    }

    fn into_errors(mut self, file: &str, toml: &str) -> Vec<SequenceError> {
        self.faults.sort_by_key(|fault| fault.at);
        let line = |at: usize| 1 + toml.bytes().take(at).filter(|&byte| byte == b'\n').count();
        let error =
            |Fault { at, field, message }| SequenceError { file: file.to_owned(), line: line(at), field, message };
        self.faults.into_iter().map(error).collect()
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
