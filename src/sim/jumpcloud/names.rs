//! The invented names from which tenants are made. Nothing here belongs to a real person or company.

/// Given names with their spelling in user names.
pub(super) const FIRST: [(&str, &str); 48] = [
    ("Avery", "avery"),
    ("Blake", "blake"),
    ("Casey", "casey"),
    ("Devon", "devon"),
    ("Zoë", "zoe"),
    ("Søren", "soeren"),
    ("Łucja", "lucja"),
    ("José", "jose"),
    ("Anaïs", "anais"),
    ("Jürgen", "juergen"),
    ("Noor", "noor"),
    ("Åsa", "aasa"),
    ("Eilidh", "eilidh"),
    ("Farid", "farid"),
    ("Greta", "greta"),
    ("Hiro", "hiro"),
    ("Imani", "imani"),
    ("Jorun", "jorun"),
    ("Kofi", "kofi"),
    ("Leïla", "leila"),
    ("Mirek", "mirek"),
    ("Nadia", "nadia"),
    ("Ødger", "oedger"),
    ("Petra", "petra"),
    ("Quincy", "quincy"),
    ("Renée", "renee"),
    ("Siân", "sian"),
    ("Tomás", "tomas"),
    ("Ulla", "ulla"),
    ("Vera", "vera"),
    ("Wim", "wim"),
    ("Xenia", "xenia"),
    ("Yusuf", "yusuf"),
    ("Zahra", "zahra"),
    ("明美", "akemi"),
    ("Андрей", "andrey"),
    ("Ελένη", "eleni"),
    ("Bram", "bram"),
    ("Chiara", "chiara"),
    ("Dáithí", "daithi"),
    ("Emre", "emre"),
    ("Fenna", "fenna"),
    ("Gül", "guel"),
    ("Hadley", "hadley"),
    ("Ines", "ines"),
    ("Jasper", "jasper"),
    ("Kaja", "kaja"),
    ("Lior", "lior"),
];

/// Family names with their spelling in user names.
pub(super) const LAST: [(&str, &str); 61] = [
    ("Fixture", "fixture"),
    ("Sample", "sample"),
    ("Staged", "staged"),
    ("Rootonly", "rootonly"),
    ("Müllerin", "muellerin"),
    ("O'Specimen", "ospecimen"),
    ("van der Proef", "vanderproef"),
    ("Ångmark", "angmark"),
    ("Próba", "proba"),
    ("Échantillon", "echantillon"),
    ("Muster", "muster"),
    ("Esempio", "esempio"),
    ("Vzorek", "vzorek"),
    ("Örnek", "oernek"),
    ("Ejemplo", "ejemplo"),
    ("Placeholder", "placeholder"),
    ("Testfield", "testfield"),
    ("Demoson", "demoson"),
    ("Mockingham", "mockingham"),
    ("Stubbs-Fake", "stubbsfake"),
    ("Dummert", "dummert"),
    ("Seedling", "seedling"),
    ("Draftwell", "draftwell"),
    ("Patternson", "patternson"),
    ("Modelli", "modelli"),
    ("Præve", "praeve"),
    ("Näidis", "naidis"),
    ("Paraugs", "paraugs"),
    ("Pavyzdys", "pavyzdys"),
    ("Minta", "minta"),
    ("Primer", "primer"),
    ("Zgled", "zgled"),
    ("Ukážka", "ukazka"),
    ("Sýnishorn", "synishorn"),
    ("Voorbeeld", "voorbeeld"),
    ("Beispiel", "beispiel"),
    ("Eksempel", "eksempel"),
    ("Exempel", "exempel"),
    ("Esimerkki", "esimerkki"),
    ("Exemplo", "exemplo"),
    ("Exemplu", "exemplu"),
    ("Shembull", "shembull"),
    ("Παράδειγμα", "paradeigma"),
    ("Пример", "primerov"),
    ("見本", "mihon"),
    ("Halimbawa", "halimbawa"),
    ("Contoh", "contoh"),
    ("Mfano", "mfano"),
    ("Enghraifft", "enghraifft"),
    ("Sampla", "sampla"),
    ("Adibide", "adibide"),
    ("Exemplar", "exemplar"),
    ("Prototypo", "prototypo"),
    ("Trialman", "trialman"),
    ("Quickcheck", "quickcheck"),
    ("Lorem", "lorem"),
    ("Ipsum", "ipsum"),
    ("Dolor", "dolor"),
    ("Amet", "amet"),
    ("Consec", "consec"),
    ("Tetur", "tetur"),
];

pub(super) const DEPARTMENTS: [&str; 10] = [
    "Engineering",
    "Sales",
    "Finance",
    "People",
    "Legal",
    "Support",
    "Marketing",
    "Security",
    "Forschung & Entwicklung",
    "Operations",
];

pub(super) const JOBS: [&str; 10] = [
    "Developer",
    "Account Executive",
    "Controller",
    "Recruiter",
    "Counsel",
    "Support Engineer",
    "Designer",
    "Security Analyst",
    "Wissenschaftlerin",
    "Team Lead",
];

pub(super) const PLACES: [&str; 8] = [
    "Utrecht", "Berlin", "Malmö", "Kraków", "Porto", "Austin", "Pune", "東京",
];

pub(super) const EMPLOYEE_TYPES: [&str; 4] = ["Employee", "Contractor", "Intern", ""];

pub(super) const TEAMS: [&str; 12] = [
    "Platform",
    "Field",
    "Reviewers",
    "On-call",
    "Readers",
    "Editors",
    "Approvers",
    "Guild",
    "Übersetzung",
    "Interim",
    "Leads",
    "Pilot",
];

/// Template key and display name of applications.
pub(super) const APPS: [(&str, &str); 16] = [
    ("ticketdesk", "Ticket Desk"),
    ("wikiworks", "Wiki Works"),
    ("codehaven", "Code Haven"),
    ("payrolly", "Payrolly"),
    ("crmforge", "CRM Forge"),
    ("boardly", "Boardly"),
    ("mailroom", "Mail Room"),
    ("vaultis", "Vaultis"),
    ("chatterbox", "Chatter Box"),
    ("dashlight", "Dash Light"),
    ("expensio", "Expensio"),
    ("lernwelt", "Lernwelt"),
    ("buildfarm", "Build Farm"),
    ("docsign", "Doc Sign"),
    ("roomplan", "Room Plan"),
    ("pagerbell", "Pager Bell"),
];

/// Name and scopes of the roles that every organisation has.
pub(super) const BUILT_IN_ROLES: [(&str, &[&str]); 9] = [
    (
        "Administrator With Billing",
        &["billing", "administrators", "systemusers", "groups"],
    ),
    (
        "Administrator",
        &["administrators", "systemusers", "groups", "applications"],
    ),
    ("Manager", &["systemusers", "groups", "applications"]),
    ("Command Runner With Billing", &["billing", "commands.run"]),
    ("Command Runner", &["commands.run"]),
    ("Help Desk", &["systemusers.readonly", "systemusers.unlock"]),
    ("Billing Only", &["billing"]),
    (
        "Read Only",
        &[
            "systemusers.readonly",
            "groups.readonly",
            "applications.readonly",
        ],
    ),
    ("Asset Manager", &["systems", "assets"]),
];

/// Name, description and scopes of the custom roles.
pub(super) const CUSTOM_ROLES: [(&str, &str, &[&str]); 3] = [
    (
        "Helpdesk Tier 2",
        "Unlock and reset only",
        &["systemusers.readonly", "systemusers.unlock"],
    ),
    (
        "Zugriffsprüfung",
        "",
        &["groups.readonly", "applications.readonly"],
    ),
    (
        "App Owner (EMEA)",
        "Assigns applications",
        &["applications", "groups.readonly"],
    ),
];

/// The `number`th element, starting again at the end.
pub(super) fn pick<T: Copy + Default, const N: usize>(list: &[T; N], number: u64) -> T {
    list.get(wrap(number, N)).copied().unwrap_or_default()
}

/// `number` modulo `length`, as an index; 0 for an empty list.
pub(super) fn wrap(number: u64, length: usize) -> usize {
    usize::try_from(number % (length.max(1) as u64)).unwrap_or(0)
}
