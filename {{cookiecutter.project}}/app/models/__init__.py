# % if cookiecutter.state_storage == "django"
from app.models import posts  # noqa: F401  Django finds its models here
# % endif
