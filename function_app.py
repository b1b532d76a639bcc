"""The function app: every function, registered. No logic."""

import azure.durable_functions as df
import azure.functions as func

from activities.blueprint import blueprint as activities
from event_triggers.blueprint import blueprints as event_triggers
from http_triggers.blueprint import blueprints as http_triggers
from orchestrators.blueprint import blueprint as orchestrators
from shared.startup import prepare

prepare()
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
for blueprint in (orchestrators, activities, *http_triggers, *event_triggers):
    app.register_functions(blueprint)
